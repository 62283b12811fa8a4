"""Anthropic's Messages API, as a view over chat: the same jobs, pieces and limits in other documents."""
