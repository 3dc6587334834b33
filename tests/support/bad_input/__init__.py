"""Files that must not be believed, as lists: name of the damage -> how it is done, and what the error must say."""
