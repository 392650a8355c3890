"""A broker of one's own that others may reach: its authority, certificates, roles and configuration, in one folder."""

from midstream.securing.folder import SecureFolder

__all__ = ["SecureFolder"]
