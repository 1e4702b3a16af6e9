"""How much of a library of adapters one network can write down."""
