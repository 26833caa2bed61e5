"""What keeps plugins out of the process that tells of them: `needle doctor`, and the supervision of other commands.

environment   Python, versions, NEEDLE_ variables, metadata: what is known without importing a plugin
examination   one plugin, tried out in a process of its own: what became of that process
probe         what runs in there
supervision   a command of `needle` in a process of its own, and how that ended
shared_state  what all modules of a process share, and what a plugin changed of it
"""
