"""One experiment per file. Installed as ktjax.configs, which is a link to this folder."""
