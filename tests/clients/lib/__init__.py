"""What the client tests share: the node under test, the clients, and their installation."""
