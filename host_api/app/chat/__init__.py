"""Chats over the AI SDK's stream."""
