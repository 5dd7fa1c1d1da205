"""The files that configure fedrad, each read once into a frozen type that refuses."""
