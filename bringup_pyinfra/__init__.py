"""What bringup adds to pyinfra itself; registered as entry points, so that `pyinfra` finds it in every folder."""
