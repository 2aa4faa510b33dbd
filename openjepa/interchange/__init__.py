"""Foreign weight formats, translated at the door: the room is there, and nothing is translated yet."""
