"""Methods of training: one file each. See `recipe.py`."""
