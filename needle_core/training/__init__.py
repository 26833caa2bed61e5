"""What `needle train` does: a run that resumes bit for bit, its folder, its models and the plot of its curves.

run      the state of a run, and its steps
folder   where a run is kept
models   the models that come with Needle, and those in files
curves   the plot
"""

from needle_core.training.folder import RunFolder
from needle_core.training.models import MODELS, Factory, find_model
from needle_core.training.run import TASKS, DivergedError, Run, Score, Settings, Task

__all__ = ["Run", "Settings", "Score", "Task", "TASKS", "DivergedError", "RunFolder", "Factory", "MODELS", "find_model"]
