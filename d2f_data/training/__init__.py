"""The settings of a training run, inside ComfyUI and outside."""
