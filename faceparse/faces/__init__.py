"""Faces in photographs and videos: found, cut out, parsed and put back."""
