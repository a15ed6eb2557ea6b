"""Why a run missed a line: one rule a cause, from the run's samples, its plan and the host's facts.

`bringup.smoke.diagnosis.diagnose.diagnose(report)` is the way in. Nothing is imported here, since the record's model holds causes.
"""
