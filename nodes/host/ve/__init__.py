"""The variance exploding coordinates of a converted model, in which ComfyUI's samplers and CFG functions run."""
