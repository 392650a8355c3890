"""What a gateway gives to whom: bounded queues and admission, decided without clock or I/O."""
