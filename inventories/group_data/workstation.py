"""Settings of the group `workstation`."""

# what the hosts are for; decides context length, concurrency and the acceptance lines
profile = "interactive"
