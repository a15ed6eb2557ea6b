"""What a bare RTX 4090 D workstation would get, on any laptop: `pyinfra inventories/rehearsal.py deploys/qwen.py --dry --diff`.

The probe's output is composed from what is publicly known of such machines, not recorded from one; pyinfra's own @fake connector
answers everything else as a bare host would. Only a dry run makes sense.
"""

import time
from pathlib import Path

_RECORDING = (Path(__file__).parent / "recordings" / "4090d-workstation.txt").read_text().replace("NOW", str(int(time.time())))

rehearsal = [
    (
        "@fake/4090d-workstation",
        {
            "fake_responses": {
                "@@bringup": _RECORDING.splitlines(),
                "id -u": "0",
                # what pyinfra's own group and user operations ask of every host; Ubuntu has both from the start
                "uname -s": "Linux",
                "command -v useradd": "/usr/sbin/useradd",
            },
            "fake_delay": 0,
            "fake_delay_jitter": 0,
        },
    )
]
