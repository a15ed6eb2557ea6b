"""Settings of the group `fleet`."""

# what the hosts are for; decides context length, concurrency and the acceptance lines
profile = "concurrent"
