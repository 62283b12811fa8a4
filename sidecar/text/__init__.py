"""Words to tokens and back: templates, pictures, detokenizing, stops, thinking, tool calls."""
