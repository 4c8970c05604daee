"""From a red case to the commit, the version or the option that made it so: ``mlstm-verify bisect``."""
