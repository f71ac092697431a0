"""What the config rests on: which values a field may hold, trees of settings into dataclasses, plug-ins by file."""
