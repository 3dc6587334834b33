"""The Decoder protocol, and how one answer is generated from a timeline."""
