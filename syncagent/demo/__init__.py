"""The demonstration: an orchard camera, a bad link and a store on this machine, around the real agent.

Owns everything that the agent would meet in the field, played on loopback; the agent itself is started as anybody
would start it, and nothing here reaches into it. Needs the extra `demo`, and no account.
"""
