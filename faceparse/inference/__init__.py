"""From a network in a file to label maps and their scores."""
