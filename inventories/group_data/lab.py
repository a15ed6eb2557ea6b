"""What the throw-away hosts serve: a real small model, on the CPU."""

from bringup.lab.model import demo_model_dir
from bringup.lab.state import lab_dir

profile = "cpu-demo"
model = "HuggingFaceTB/SmolLM2-135M-Instruct"
model_source = {"kind": "control-folder", "path": str(demo_model_dir(lab_dir()))}
