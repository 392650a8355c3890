"""What crosses between device and gateway: messages, chunks, codecs, topics, presence, transport."""
