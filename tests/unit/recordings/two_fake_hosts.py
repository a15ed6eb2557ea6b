two = [(f"@fake/gpu{n}", {"fake_responses": {"uname -s": "Linux"}, "fake_delay": 0, "fake_delay_jitter": 0}) for n in (1, 2)]
