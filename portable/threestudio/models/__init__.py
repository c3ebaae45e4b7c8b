"""Everything a system is built from. Importing a package registers what it offers."""
