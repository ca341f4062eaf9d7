"""Where every file comes from: records of executions, walks back, checks, and stages run again."""
