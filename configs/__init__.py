"""Commented study, site and radiomics files that ship with fedrad."""
