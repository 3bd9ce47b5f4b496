"""Captions of a training folder: where they come from, what is made of them, and what was probably meant as one."""
