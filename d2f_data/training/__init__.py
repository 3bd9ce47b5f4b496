"""The settings of a training run, inside ComfyUI and outside, and the samples that it draws."""
