"""Many copies of an encoder: how work is dealt to them, and how Ray places them."""
