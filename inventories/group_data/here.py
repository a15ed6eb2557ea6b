"""The demo's model, from the hub: a dry run downloads nothing."""

profile = "cpu-demo"
model = "HuggingFaceTB/SmolLM2-135M-Instruct"
model_source = {"kind": "hub", "revision": "main"}
