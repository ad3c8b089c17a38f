"""Class sets, pictures, a data set's layout, its preparation, checks and augmentation."""
