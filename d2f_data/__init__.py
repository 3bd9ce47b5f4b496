"""Data on disk: what is trained on and what training leaves behind. Knows nothing of ComfyUI.

Only safetensors and JSON are read, never a pickle. A file is written beside its place and moved there when it is
whole, so that a crash or a full disk leaves the old one.

======================  ===================================================================================
file                    what it does
======================  ===================================================================================
``store``               files that are whole or not there, names that are safe, errors that name the file
``lora_file``           a LoRA in the layout of kohya's sd-scripts
``lora_metadata``       the facts of its training, and the other metadata of its file
``checkpoint``          the complete state of a training run, bit for bit
``run_folder``          where a training run lives, and whether it goes on
``pictures``            plot of the losses, pictures side by side
``path_plot``           plot of straightness and few-step errors
``depth_images``        the size that a depth model works at, and depth in colours
``folder``              the images, captions and masks in a folder, and what is odd about them
``images``              a picture as pixels, whatever its format
``buckets``             sizes of about one area, and the one nearest to an image
``augment``             flips, crops and colours, from seeds
``samples``             what one item of a training set is made of
``training_set``        all items, encoded in batches of one size
``latent_cache``        what was encoded, under a hash
``set_report``          the text and the contact sheet about a training set
``raw_values``          measured values as a file stores them, one a pixel
``paired``              images and their targets in two folders, and how they are brought to one size
``paired_tensors``      reads them
``pairs``               a finished set of reflow pairs, checked and read row by row
``pairs_writer``        writes one in shards, and goes on where a writer before it stopped
``pairs_plan``          what a set of pairs is to be; pair i comes from (seed, i)
``pairs_manifest``      what it consists of, and whether its files are what they were
``pairs_lock``          one writer at a time
======================  ===================================================================================

Imports of large optional packages (kornia, Pillow) happen inside functions: the pack has to load fast.
"""
