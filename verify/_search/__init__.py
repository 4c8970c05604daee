"""The hunt for the case on which a subject is furthest off."""
