"""The models as torch modules. Importing a file of this folder loads torch; configurations load it when they build."""
