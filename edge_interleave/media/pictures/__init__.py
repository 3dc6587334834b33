"""Picture files of any common format to upright RGB images."""
