"""The host service on 60315: capabilities decide what runs, chat and tasks use it. Needs the ``host`` extra."""
