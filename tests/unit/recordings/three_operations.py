from pyinfra import host
from pyinfra.operations import files, server

a = files.file(name="Have no key", path="/etc/key", present=False)
server.shell(name="Reload if the key went", commands=["true"], _if=a.did_change)
if host.name.endswith("2"):
    server.shell(name="Set vm.swappiness 60 -> 10", commands=["sysctl -w vm.swappiness=10"])
