"""What `needle bench` measures, and how: training steps and their ops, on several devices in turn."""
