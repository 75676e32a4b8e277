"""Arrays in, arrays out: published file formats and checks of what they hold; nothing is downloaded."""
