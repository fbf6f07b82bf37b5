"""Single objects: what examples say of their size and shape, and masks cut into objects by that."""
