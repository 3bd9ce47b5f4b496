"""Training outside ComfyUI: ``accelerate launch -m d2f_diffusers.train --settings settings.json ...``"""
