"""The publisher's verbs of `syncagent firmware`. Each is loaded when it is asked for."""

#: verb -> (module, function, one line of help)
PUBLISHER_VERBS = {
    "keygen": ("syncagent.cli.publishing.keys", "keygen", "Make the key of a role."),
    "init": ("syncagent.cli.publishing.keys", "init", "Begin a repository in the bucket."),
    "channel": ("syncagent.cli.publishing.keys", "channel", "Add or remove a channel."),
    "publish": ("syncagent.cli.publishing.releases", "publish", "Offer an image in a channel."),
    "promote": ("syncagent.cli.publishing.releases", "promote", "Offer a channel's release in another one."),
    "rollout": ("syncagent.cli.publishing.releases", "rollout", "Change how much of the fleet may install, or halt."),
    "withdraw": ("syncagent.cli.publishing.releases", "withdraw", "Offer a release no longer."),
    "renew": ("syncagent.cli.publishing.keys", "renew", "Sign anew what expires."),
    "rotate-key": ("syncagent.cli.publishing.keys", "rotate_key", "Give a role other keys."),
    "sign": ("syncagent.cli.publishing.keys", "sign", "Sign an exported file, offline."),
    "import": ("syncagent.cli.publishing.keys", "import_", "Publish what was exported and signed."),
    "verify": ("syncagent.cli.publishing.looking", "verify", "Look at the bucket as a device does."),
    "list": ("syncagent.cli.publishing.looking", "list_", "List what each channel offers."),
    "show": ("syncagent.cli.publishing.looking", "show", "Show roles, keys and expiries, or one release."),
    "fleet": ("syncagent.cli.publishing.looking", "fleet", "List what each device confirmed last."),
    "gc": ("syncagent.cli.publishing.looking", "gc", "Delete what nothing refers to any more."),
}
