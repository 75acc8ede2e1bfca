"""The local target: real servers and our services as plain processes on loopback, no container engine.

`servers.py` is the table of what can run; `provision/` gets what the machine lacks into the cache;
`supervisor.py` starts, watches and ends processes; `target.py` joins the three. No daemon stays behind:
what runs is written in the state folder, and any later `lab` command reads it there.
"""
