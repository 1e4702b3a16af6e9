"""The functions world: text functions of daily work over real words and sentences, described in words."""
