"""What the scripts at the top level share, a module per subject."""
