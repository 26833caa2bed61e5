"""What `needle doctor` finds out about an installation, without letting any plugin into its own process.

environment   Python, versions, NEEDLE_ variables, metadata: what is known without importing a plugin
examination   one plugin, tried out in a process of its own: what became of that process
probe         what runs in there
common        what all modules of a process share, and what a plugin changed of it
"""
