"""From a prompt to files: the one pipeline behind the command line, the comparison and the page."""
