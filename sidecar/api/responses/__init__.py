"""OpenAI's Responses API, as a view over chat: the same jobs, pieces and limits in other documents."""
